"""``python -m ssa_analysis`` is the same as ``ssa-analyze``."""

from ssa_analysis.cli.main import main

if __name__ == "__main__":
    main()
