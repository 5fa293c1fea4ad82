"""What a curation takes, before it runs: `raymill plan` of a config of `kind: curate`."""
