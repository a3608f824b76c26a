-- Sessions that a service opened in a user's name. Safe while older replicas serve, which take them
-- for ordinary sessions.

-- The identity of the service that impersonates the user; NULL: the user logged in.
ALTER TABLE sessions ADD COLUMN impersonator text;
