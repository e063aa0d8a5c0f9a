"""Defects of single stems that need no mixture to be seen.

What some music has by design (hard-panned stereo, the few levels of a sound chip) is told apart where that can be;
where it cannot, the verdict names the setting that allows it.
"""
