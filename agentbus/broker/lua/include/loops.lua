-- The guard against conversations that go round for ever: a message may be led to by so many handlers, and a
-- sender may send so many messages to one address within one conversation and window. Needs topic_policy.

-- defaults: most hops, most messages, window in ms. Returns a function of (policy, message) -> the three in
-- force; each message type is looked up once.
local function loop_limits(policy, defaults)
  local known = {}
  return function(message)
    local name = type_of(message)
    local limits = known[name]
    if not limits then
      local own = redis.call('HMGET', policy, name .. ':max_hops', name .. ':loop_messages', 'max_hops',
        'loop_messages', 'loop_window_ms')
      limits = {
        tonumber(own[1] or own[3]) or defaults[1],
        tonumber(own[2] or own[4]) or defaults[2],
        math.max(1, tonumber(own[5]) or defaults[3]),
      }
      known[name] = limits
    end
    return limits
  end
end

-- option: {hops, pair}; both 0 for no limit. Returns the refusal, or nil and what `count_loop` needs once the
-- message is stored. A window begins with the first message of a pair; its count is in the bucket of that time.
local function loop_refusal(even, odd, limits, now, option)
  local most_hops, most, window = limits[1], limits[2], limits[3]
  if most_hops > 0 and option.hops > most_hops then return string.format('loop hops %.0f', most_hops) end
  if most == 0 then return nil end
  for _, hash in ipairs({even, odd}) do
    local found = redis.pcall('HGET', hash, option.pair)
    if failed(found) then return 'error ' .. hash .. ': ' .. found.err end
    local count, since = string.match(found or '', '^(%d+) (%d+)$')
    if count and now - tonumber(since) < window then
      if tonumber(count) >= most then return string.format('loop messages %.0f %.0f', most, window) end
      return nil, {hash, string.format('%.0f %s', count + 1, since)}
    end
  end
  local bucket = math.floor(now / window)
  return nil, {bucket % 2 == 0 and even or odd, string.format('1 %.0f', now), (bucket + 2) * window}
end

-- Buckets take turns and expire whole. Never shortens a life: the window may have been longer before.
local function count_loop(pair, noted)
  redis.call('HSET', noted[1], pair, noted[2])
  local ends = noted[3]
  if ends and redis.call('PEXPIREAT', noted[1], ends, 'NX') == 0 then
    redis.call('PEXPIREAT', noted[1], ends, 'GT')
  end
end
