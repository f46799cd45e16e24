"""Which packages a wheel holds: those of bakeoff/, and the two folders of the first level that ship with it."""

from setuptools import find_packages, setup

SHIPPED = ["bakeoff.shipped.bench", "bakeoff.shipped.methods"]

setup(packages=[*find_packages(include=["bakeoff", "bakeoff.*"]), *SHIPPED])
