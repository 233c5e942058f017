"""Agents review a diff: a planner, two reviewers with real checks, and a person who reads along."""
