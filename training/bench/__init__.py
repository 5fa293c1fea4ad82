"""How fast training is on this machine: random weights, random packed rows, the real objective and the real engine."""
