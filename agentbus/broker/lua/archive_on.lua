#!lua flags=allow-oom
--@include clock
-- Says that this deployment archives: from now on nothing that has ended leaves before it is archived.
--
-- KEYS   1 archive
-- Returns 1 when that is new, else 0
--
-- A script because a full server must take it: the archive is what makes room there.
redis.call('HSETNX', KEYS[1], 'since', now_ms())
return redis.call('HSET', KEYS[1], 'on', 1)
