"""The one arithmetic: exact sums rounded once, in scalar, vectorised and GPU form, and the grid they stream on."""
