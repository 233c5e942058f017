-- Idempotency keys in two buckets that take turns and expire whole.

-- Remembers a key from now on. Never shortens a bucket's life: another publisher's window may be longer.
local function remember_in_window(even, odd, window, now, key, digest, entry)
  local bucket = math.floor(now / window)
  local hash = bucket % 2 == 0 and even or odd
  local wrote = redis.pcall('HSET', hash, key, digest .. ' ' .. entry)
  if failed(wrote) then return end
  local ends = (bucket + 2) * window
  if redis.call('PEXPIREAT', hash, ends, 'NX') == 0 then redis.call('PEXPIREAT', hash, ends, 'GT') end
end
