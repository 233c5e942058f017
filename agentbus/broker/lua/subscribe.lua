#!lua flags=allow-oom
--@include clock
--@include subscriber
-- Makes a consumer of a subscribing agent known at a channel, with the agent's cursor.
--
-- KEYS   1 alive   2 subscriber   3 log
-- ARGV   1 consumer   2 its lease in ms   3 the agent   4 where a new cursor begins: '$', '0' or an entry id
-- Returns {'joined', server time in ms, 1 if the cursor was made now, the entry behind which some are gone or '',
--          when the cursor was made first (ms)}
--         {'taken'}   the name is in use
--
-- The cursor is a group named after the agent: it stays when its consumers go, and is made once. `position`
-- counts the entries that were ever before it: with that, what retention removes unread is known as a number.
-- allow-oom because a full server must be able to drain.
local group, start = ARGV[3], ARGV[4]
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return {'taken'} end

-- A cursor whose group somebody deleted goes on where it stood.
local stood = redis.call('HGET', KEYS[2], 'last')
local is_new, log_gone = remake_group(KEYS[3], group, KEYS[2], stood or start)
if type(is_new) == 'table' then return redis.error_reply(is_new.err .. ' key ' .. KEYS[3]) end
local now, gone = now_ms(), log_gone and stood or ''
if is_new and not stood then
  local added, removed, last = log_facts(KEYS[3])
  local position = removed
  if start == '$' then
    position, start = added, last
  elseif start ~= '0' then
    local first = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
    position = position_at(KEYS[3], start, added)
    -- Older ones than the oldest that is kept were asked for, and there were some.
    if removed > 0 and (not first or position == removed) then gone = start end
  end
  redis.call('HSET', KEYS[2], 'joined', now, 'last', start == '0' and '0-0' or start)
  if position then redis.call('HSET', KEYS[2], 'position', position) end
  if gone ~= '' then redis.call('HSET', KEYS[2], 'gap', '- ? ' .. gone) end
end
redis.call('HSET', KEYS[1], ARGV[1], '0 0 serving' .. (ARGV[2] ~= '' and ' ' .. ARGV[2] or ''))
return {'joined', now, is_new and 1 or 0, gone, redis.call('HGET', KEYS[2], 'joined') or ''}
