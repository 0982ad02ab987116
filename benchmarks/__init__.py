"""Benchmarks use all instructions that the processor has, whatever params.yaml says: they ask what it can do.

`processors` runs the stages in processes of their own, with the instructions that params.yaml names.
"""

from stages import use_instructions

use_instructions("native")
