"""Every test runs dlkit with its tensor shapes and types checked."""

from jaxtyping import install_import_hook

install_import_hook("dlkit", "checked.check")
