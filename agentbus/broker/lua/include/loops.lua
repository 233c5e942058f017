-- The guard against conversations that go round for ever: a message may be led to by so many handlers, and a
-- sender may send so many messages to one address within one conversation and window. Needs topic_policy.

-- defaults: most hops, most messages, window in ms. The returned functions take the option {hops, pair} of a
-- message: `refusal` before it is stored, `count` once it is; `finish` writes the counts of the batch.
-- Of a pair is kept when it sent what still counts: `<ms>:<messages>`, oldest first, in the bucket of the last one.
-- Buckets take turns and expire whole. Beyond EXACT messages a time stands for a hundredth of the window, by its
-- end: so a list stays short whatever a policy allows, and no window ever holds more than that.
local EXACT = 100

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

  -- What a pair has sent within the window, or nil and the server's error.
  local function counted(pair, most)
    local window, bucket = most.window, math.floor(now / most.window)
    local this, other = odd, even
    if bucket % 2 == 0 then this, other = even, odd end
    local count = {hash = this, times = {}, number = 0, window = window, ends = (bucket + 2) * window}
    for _, hash in ipairs({this, other}) do
      local found = redis.pcall('HGET', hash, pair)
      if failed(found) then return nil, 'error ' .. hash .. ': ' .. found.err end
      if found then
        for at, messages in string.gmatch(found, '(%d+):(%d+)') do
          if now - tonumber(at) < window then
            count.times[#count.times + 1] = {at = tonumber(at), messages = tonumber(messages)}
            count.number = count.number + tonumber(messages)
          end
        end
        count.left = hash ~= this and hash
        return count
      end
    end
    return count
  end

  function guard.refusal(option, message)
    local most, problem = limits(message), nil
    if most.hops > 0 and option.hops > most.hops then return string.format('loop hops %.0f', most.hops) end
    if most.messages == 0 then return nil end
    local count = counts[option.pair]
    if not count then
      count, problem = counted(option.pair, most)
      if not count then return problem end
      counts[option.pair] = count
    end
    option.counted = count
    if count.number >= most.messages then
      return string.format('loop messages %.0f %.0f', most.messages, most.window)
    end
    return nil
  end

  function guard.count(option)
    local count = option.counted
    if not count then return end
    local last = count.times[#count.times]
    if not last or now > last.at then
      last = {at = now + (count.number < EXACT and 0 or math.ceil(count.window / EXACT)), messages = 0}
      count.times[#count.times + 1] = last
    end
    last.messages, count.number, count.changed = last.messages + 1, count.number + 1, true
  end

  local function written(times)
    local texts = {}
    for i, time in ipairs(times) do texts[i] = string.format('%.0f:%.0f', time.at, time.messages) end
    return table.concat(texts, ' ')
  end

  function guard.finish()
    for pair, count in pairs(counts) do
      if count.changed then
        redis.call('HSET', count.hash, pair, written(count.times))
        if count.left then redis.call('HDEL', count.left, pair) end
        -- Never shortens a life: the window may have been longer before.
        if redis.call('PEXPIREAT', count.hash, count.ends, 'NX') == 0 then
          redis.call('PEXPIREAT', count.hash, count.ends, 'GT')
        end
      end
    end
  end

  return guard
end
