"""Arrays on a device or on the host, for functions that read either."""

import jax
import numpy as np

Array = jax.Array | np.ndarray
