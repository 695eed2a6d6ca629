"""The program `fastdeit`: one module a command, each registered in setup.cfg."""
