"""The commands of ``taemi-bench``, a module each; heavy libraries are imported only once one runs."""
