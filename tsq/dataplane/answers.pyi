"""Types of the compiled answers, which have a C interface only; see answers.pyx."""
