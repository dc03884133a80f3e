"""The page that `python -m lit_cifar demo` serves."""
