"""What a repository of one's own begins with: the files that `bakeoff init` writes, and the assets it needs"""
