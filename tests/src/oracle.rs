//! Oracle: slow programs that know the right answer.
