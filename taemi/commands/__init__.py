"""The commands of ``taemi``, a module each; torch is imported only once one runs."""
