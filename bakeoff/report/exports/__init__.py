"""What leaves a report for elsewhere: LaTeX, tables of scores, history, a pull request's comment"""
