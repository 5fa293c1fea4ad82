"""ChatML as a chat template: that of `chat_template: chatml` and of fitted tokenizers.

Every turn is `<|im_start|>ROLE`, a line feed, `CONTENT<|im_end|>` and a line feed, as in
https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md. Tools are JSON in a first system turn, an
assistant's calls JSON in <tool_call> after its content, and a tool's result is a turn of the role `tool`. The rendering
of a longer conversation begins with that of a shorter one.
"""

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\nYou can call these tools:\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- 'To call one, write <tool_call>{"name": ..., "arguments": {...}}</tool_call>.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- elif message.content %}
        {%- for part in message.content %}
            {{- part.text }}
        {%- endfor %}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- set function = call.function or call %}
        {{- '\\n' if message.content or not loop.first }}
        {{- '<tool_call>{"name": ' + function.name | tojson + ', "arguments": ' }}
        {{- function.arguments if function.arguments is string else function.arguments | tojson }}
        {{- '}</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
