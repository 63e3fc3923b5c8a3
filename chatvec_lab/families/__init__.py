"""Families of models that share one base: by name, folder or YAML file; what they hold, and whether they are one."""

from chatvec_lab.families.catalogue import describe_families, families_page
from chatvec_lab.families.family import Family, Role, family_names, load_family

__all__ = ["Family", "Role", "describe_families", "families_page", "family_names", "load_family"]
