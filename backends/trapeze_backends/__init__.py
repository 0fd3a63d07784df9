"""The worker side of trapeze: everything that happens after exec.

Runs in the app's own interpreter, where nothing of `trapeze` is installed: it imports the standard library and the
server it adapts, and no more of either than it must, because this is what decides how fast every worker starts.
"""
