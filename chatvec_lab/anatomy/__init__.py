"""What a chat vector is made of: norms, cosines, interference, vocabulary rows, spectra, fidelity; tidy tables.

from chatvec_lab import anatomy

vectors = {"chat": chat - base, "zh": cp_zh - base}
found = anatomy.survey(vectors)                   # one pass: .norms .cosines .interference .vocabulary
anatomy.combine(found.cosines, by="layer")        # exact aggregates
"""

from chatvec_lab.anatomy.combine import combine
from chatvec_lab.anatomy.fidelity import fidelity
from chatvec_lab.anatomy.measures import cosines, family_norms, interference, norms, survey, vocabulary
from chatvec_lab.anatomy.spectrum import spectrum, subspaces
from chatvec_lab.anatomy.tables import Survey

__all__ = [
    "Survey",
    "combine",
    "cosines",
    "family_norms",
    "fidelity",
    "interference",
    "norms",
    "spectrum",
    "subspaces",
    "survey",
    "vocabulary",
]
