"""Update policy: (x, y, the solver's attempt) to explanations of why y is right, and the file that keeps them."""
