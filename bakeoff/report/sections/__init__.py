"""Parts of report.md"""
