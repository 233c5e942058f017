-- How far the archive has surely taken what ended in the streams of an inbox; archived.lua writes it.

-- Stream name to {upto, held}: every entry up to `upto` that is not among `held` has ended, and is committed.
-- Without a border, or with one that somebody wrote by hand and that is none, nothing is.
local function read_borders(archived_key, names)
  local text = redis.call('HGET', archived_key, 'border')
  local ok, written = pcall(cjson.decode, text or '{}')
  local borders = {}
  for _, name in ipairs(names) do
    local border = ok and type(written) == 'table' and written[name]
    local sound = type(border) == 'table' and type(border.held) == 'table' and type(border.upto) == 'string'
    for _, id in ipairs(sound and {border.upto, unpack(border.held)} or {}) do
      sound = sound and string.match(id, '^%d+%-%d+$') ~= nil
    end
    borders[name] = sound and border or {upto = '0-0', held = {}}
  end
  return borders
end

-- Whether entry id a comes before b. As text: ids made by hand are too large for Lua's numbers.
local function precedes(a, b)
  local function padded(id)
    local time, number = string.match(id, '^(%d+)%-?(%d*)$')
    return string.rep('0', 20 - #time) .. time .. string.rep('0', 20 - #number) .. number
  end
  return padded(a) < padded(b)
end
