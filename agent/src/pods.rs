//! One worker per pod: what is, what should be, the next step.
