"""The commands of the command line, one module each; importing a module adds its command to `app.app`.

A module imports nothing heavy at its top: TensorFlow and what imports it come inside the command, under `shared.quiet()`. Every
command has examples (`epilog=examples("tfmetaprune ...")`), `--json` (`shared.Json`) if it has results, `--quiet` (`shared.Quiet`)
and, where something is random, `--seed` (`shared.Seed`). Its name goes into `cli.COMMANDS`.
"""
