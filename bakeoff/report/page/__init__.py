"""The page of a report: results to look at in a browser, in one file, without a network"""
