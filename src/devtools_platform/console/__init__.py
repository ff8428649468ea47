"""The console (:8080): what a person would rather see than read. Knows only core and kit.

`api.build_api` makes the app; `interfaces` says what it needs from the stack.
"""
