"""Stands for pages of a site: Django with its usual middleware, a view, a template that extends another one.

A project as `startproject` makes it, in one package; DEBUG is off, so that templates are compiled once. No
database: the sqlite app has one.
"""
