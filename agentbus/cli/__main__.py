"""``python -m agentbus.cli``: the same as the ``agentbus`` command."""

from agentbus.cli import main

if __name__ == "__main__":
    main()
