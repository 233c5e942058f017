-- Deleting a project goes by it.
CREATE INDEX messages_project ON messages (prefix, project) WHERE project IS NOT NULL;
