"""The command `gelato`. One thin file per subcommand; everything heavy is imported when it runs."""
