"""`python -m xreal_synth` is `xreal-synth`."""

from xreal_synth.cli.main import main

main()
