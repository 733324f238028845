-- The names of chains with members, in the order of their names.
-- KEYS[1]  chained  ZSET of the members of all chains, by name and place
-- ARGV[1]  what the names begin with
-- ARGV[2]  the last name of the page before; '' for the first page
-- ARGV[3]  at most this many
-- Returns the names.
local names = {}
local from = ARGV[2] == '' and '[' .. ARGV[1] or '(' .. ARGV[2] .. '0'
for i = 1, ARGV[3] do
  local member = redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, 1)[1]
  if not member or string.sub(member, 1, #ARGV[1]) ~= ARGV[1] then break end
  names[i] = string.sub(member, 1, -26)
  -- The character after '/' is '0': behind all members of this chain.
  from = '[' .. names[i] .. '0'
end
return names
