-- One agent's place in the log of a channel: a consumer group named after it.

-- What is pending for a consumer, oldest first.
local function pending_of(log, group, consumer, most)
  local pending = redis.pcall('XPENDING', log, group, '-', '+', most, consumer)
  if type(pending) ~= 'table' or pending.err then return {} end
  return pending
end

local function is_pending(log, group, consumer, id)
  local pending = redis.pcall('XPENDING', log, group, id, id, 1, consumer)
  return type(pending) == 'table' and not pending.err and #pending > 0
end

-- A consumer that holds nothing goes; with entries pending DELCONSUMER would lose them for ever.
local function remove_if_idle(log, group, consumer)
  if #pending_of(log, group, consumer, 1) == 0 then
    redis.pcall('XGROUP', 'DELCONSUMER', log, group, consumer)
  end
end

-- {entries added in all, entries removed so far, id of the last one ever}
local function log_facts(log)
  local flat = redis.pcall('XINFO', 'STREAM', log)
  local facts = {}
  for f = 1, flat.err and 0 or #flat, 2 do facts[flat[f]] = flat[f + 1] end
  local added = facts['entries-added'] or 0
  return added, added - (facts.length or 0), facts['last-generated-id'] or '0-0'
end

-- How many entries were added up to an id; nil when counting them would take long.
local function position_at(log, id, added)
  local after, from = 0, id
  for _ = 1, 20 do
    local entries = redis.call('XRANGE', log, '(' .. from, '+', 'COUNT', 500)
    after = after + #entries
    if #entries < 500 then return added - after end
    from = entries[#entries][1]
  end
  return nil
end

-- Makes a group that somebody deleted anew, where the cursor stood; returns whether it was missing, or an error,
-- and whether the log was gone too.
-- With the log gone too fewer entries are before the cursor than were read: a position beyond that would hide
-- the next gap. What was in it and not read is missing, and nobody knows how much that was.
local function remake_group(log, group, subscriber, stood)
  local made = redis.pcall('XGROUP', 'CREATE', log, group, stood, 'MKSTREAM')
  if type(made) == 'table' and made.err then
    if string.find(made.err, 'BUSYGROUP', 1, true) then return false end
    return made
  end
  local position = tonumber(redis.call('HGET', subscriber, 'position') or '')
  local there = position and position_at(log, stood, (log_facts(log)))
  if there and there < position then
    redis.call('HSET', subscriber, 'position', there, 'gap', '- ? ' .. stood)
    return true, true
  end
  return true, false
end

-- The latest gap: the entry behind it, '-' while there is none yet; how many are missing, '?' when nobody knows;
-- the entry before it. Whoever is handed the entry behind it is told, however often that is.
local function gap_of(text)
  return string.match(text or '', '^(%S+) (%S+) (%S*)$')
end

local function gap_json(missed, after)
  return string.format('{"missed":%s,"after":"%s"}', missed == '?' and 'null' or missed, after)
end

-- Counts entries that this agent will never handle, and keeps that for the next one that it is handed.
local function miss(subscriber, count, after)
  local entry, missed, before = gap_of(redis.call('HGET', subscriber, 'gap'))
  if entry ~= '-' then missed, before = 0, after end
  redis.call('HSET', subscriber, 'gap', '- ' .. (missed == '?' and '?' or missed + count) .. ' ' .. before)
  redis.call('HINCRBY', subscriber, 'missed', count)
end

-- Ends an entry that retention removed while it was pending: its body is gone.
local function let_go(log, group, subscriber, id)
  if redis.call('XACK', log, group, id) == 0 then return 0 end
  redis.call('HINCRBY', subscriber, 'vanished', 1)
  miss(subscriber, 1, '')
  return 1
end
