#!lua flags=allow-oom
-- Puts an entry that a consumer runs back on its list of pending ones.
--
-- KEYS   1 alive   2 the stream that holds the entry
-- ARGV   1 consumer   2 entry id
-- Returns {'restored'}; {'gone'} when it is pending, with whomever, or no longer in the stream; {'fenced'}
--
-- XGROUP DELCONSUMER or XACK by somebody else's hand takes an entry from its owner without a trace: it would
-- never be reclaimed, and its settlement would count for nothing. One step, so that nobody gets it in between.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
if #redis.call('XPENDING', KEYS[2], 'inbox', ARGV[2], ARGV[2], 1) > 0 then return {'gone'} end
if #redis.call('XRANGE', KEYS[2], ARGV[2], ARGV[2]) == 0 then return {'gone'} end
redis.call('XCLAIM', KEYS[2], 'inbox', ARGV[1], 0, ARGV[2], 'FORCE', 'JUSTID')
return {'restored'}
