"""Projects: what belongs to one, and deleting it."""

from agentbus.projects.deleted import ProjectDeleted, ProjectRemoval
from agentbus.projects.deletion import ProjectDeletion, RowEraser

__all__ = ["ProjectDeleted", "ProjectDeletion", "ProjectRemoval", "RowEraser"]
