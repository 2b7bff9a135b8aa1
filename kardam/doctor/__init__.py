"""What kardam needs of a machine and of a server, looked at one by one. Never in here: a cure."""
