"""Lowered transforms, one module a family, each with a table `LOWERED`: Albumentations class -> Lowering."""
