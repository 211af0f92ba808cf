"""The version of the numbers.

Raise NUMERICS_VERSION by hand with any change after which a cell would give other bits: the expensive rules
depend on it and on nothing else of the library, so that no other edit retrains anything. The golden-bits
test (`tests/lib/test_golden_bits.py`) fails when bits change and it was not raised.
"""

NUMERICS_VERSION = 1
