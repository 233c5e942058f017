-- The guard against conversations that go round for ever: a message may be led to by so many handlers, and a
-- sender may send so many messages to one address within one conversation and window. Needs topic_policy.

-- defaults: most hops, most messages, window in ms. The returned functions take the option {hops, pair} of a
-- message: `refusal` before it is stored, `count` once it is; `finish` writes the counts of the batch.
-- A window begins with the first message of a pair, and its count is in the bucket of that time. Buckets take
-- turns and expire whole.
local function loop_guard(policy, even, odd, defaults, now)
  local limits_of, counts, guard = {}, {}, {}

  -- 0 is no limit. Each message type is looked up once.
  local function limits(message)
    local name = type_of(message)
    local found = limits_of[name]
    if not found then
      local own = redis.call('HMGET', policy, name .. ':max_hops', name .. ':loop_messages', 'max_hops',
        'loop_messages', 'loop_window_ms')
      found = {
        hops = tonumber(own[1] or own[3]) or defaults[1],
        messages = tonumber(own[2] or own[4]) or defaults[2],
        window = math.max(1, tonumber(own[5]) or defaults[3]),
      }
      limits_of[name] = found
    end
    return found
  end

  -- The present count of a pair, or nil and the server's error.
  local function counted(pair, window)
    local bucket = math.floor(now / window)
    local this, other = odd, even
    if bucket % 2 == 0 then this, other = even, odd end
    for _, hash in ipairs({this, other}) do
      local found = redis.pcall('HGET', hash, pair)
      if failed(found) then return nil, 'error ' .. hash .. ': ' .. found.err end
      local count, since = string.match(found or '', '^(%d+) (%d+)$')
      if count and now - tonumber(since) < window then
        return {hash = hash, number = tonumber(count), since = since}
      end
    end
    return {hash = this, number = 0, since = string.format('%.0f', now), ends = (bucket + 2) * window}
  end

  function guard.refusal(option, message)
    local most, problem = limits(message), nil
    if most.hops > 0 and option.hops > most.hops then return string.format('loop hops %.0f', most.hops) end
    if most.messages == 0 then return nil end
    local count = counts[option.pair]
    if not count then
      count, problem = counted(option.pair, most.window)
      if not count then return problem end
      counts[option.pair] = count
    end
    if count.number >= most.messages then
      return string.format('loop messages %.0f %.0f', most.messages, most.window)
    end
    return nil
  end

  function guard.count(option)
    local count = counts[option.pair]
    if count then count.number, count.changed = count.number + 1, true end
  end

  function guard.finish()
    for pair, count in pairs(counts) do
      if count.changed then redis.call('HSET', count.hash, pair, string.format('%.0f %s', count.number, count.since)) end
      -- Never shortens a life: the window may have been longer before.
      if count.changed and count.ends and redis.call('PEXPIREAT', count.hash, count.ends, 'NX') == 0 then
        redis.call('PEXPIREAT', count.hash, count.ends, 'GT')
      end
    end
  end

  return guard
end
