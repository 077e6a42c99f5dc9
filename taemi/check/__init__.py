"""What is in a corpus and what is wrong with it: ``taemi check``."""

from taemi.check.report import CorpusReport, Finding, SplitReport
from taemi.check.survey import check_corpus
from taemi.check.text import format_report

__all__ = ["CorpusReport", "Finding", "SplitReport", "check_corpus", "format_report"]
