#!lua flags=allow-oom
--@include clock
--@include entry
--@include history
--@include leaving
-- Ends dead letters that waited for a person for too long: they are discarded.
--
-- KEYS   1 ledger   2 dead   3 ended   4 outcomes   5 unannounced
-- ARGV   1 longest age (ms)   2 most letters in this call
-- Returns {letters ended, 1 if there is more to do}
--
-- A move, so that no crash leaves a letter in both places or in none, and the ledger closes at every moment.
local function named(letter)
  local fields = {}
  for f = 1, #letter, 2 do fields[letter[f]] = letter[f + 1] end
  return fields
end

local function copy_of(id, letter)
  local copy = {'outcome', 'discarded', 'reason', 'retention', 'letter', id}
  -- Lua cannot unpack thousands of values; bury keeps a hundred fields of an entry that was no message.
  for f = 1, math.min(#letter, 240), 2 do
    local name = letter[f]
    if name == 'reason' then name = 'died_of' end
    if name ~= 'outcome' and name ~= 'letter' then
      copy[#copy + 1] = name
      copy[#copy + 1] = letter[f + 1]
    end
  end
  return copy
end

local length = redis.call('XLEN', KEYS[2])
local border = now_ms() - tonumber(ARGV[1])
if length == 0 or border <= 0 then return {0, 0} end
local count = readable(average_size(KEYS[2], length), math.min(tonumber(ARGV[2]), 500))
local moved, gone, announced = {}, {}, announced_until(KEYS[1])
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '(' .. id_at(border), 'COUNT', count)) do
  local id = redis.pcall('XADD', KEYS[3], '*', unpack(copy_of(entry[1], entry[2])))
  -- `ended` takes no entries (another type, the largest id): the letters stay where they are.
  if failed(id) then break end
  keep_for_notice(KEYS[5], announced, entry[1], named(entry[2]))
  moved[#moved + 1] = id
  gone[#gone + 1] = entry[1]
end
if #gone == 0 then return {0, 0} end
redis.call('XDEL', KEYS[2], unpack(gone))
redis.call('HINCRBY', KEYS[1], 'discarded', #gone)
redis.call('XADD', KEYS[4], '*', 'consumer', 'retention', 'outcome', 'discarded', 'ended', table.concat(moved, ' '))
return {#gone, #gone == count and 1 or 0}
