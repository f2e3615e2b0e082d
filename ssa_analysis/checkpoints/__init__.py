"""Any checkpoint file -> Encoder, safely."""
