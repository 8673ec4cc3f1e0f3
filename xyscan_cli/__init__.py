"""The command line `xyscan`: the only place that prints, asks for options and knows exit codes."""
