"""Benchmarks use all instructions that the processor has, whatever params.yaml says: they ask what it can do."""

from stages import use_instructions

use_instructions("native")
