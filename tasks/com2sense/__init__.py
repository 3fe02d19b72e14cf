"""Com2Sense: the reader of the original files, and a small embedded set of complementary pairs."""
