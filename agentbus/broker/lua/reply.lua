#!lua flags=allow-oom
-- Adds an answer to the log of the process that asked.
--
-- KEYS   1 the asker's reply log
-- ARGV   1 message
-- Returns the entry id; '' when the asker is gone (its log expired with it).
--
-- Never creates the log: an answer to nobody would stay for ever. allow-oom: the answer is part of
-- settling its request.
if redis.call('EXISTS', KEYS[1]) == 0 then return '' end
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', 10000, '*', 'message', ARGV[1])
