-- IMIX: 28 frames of 64 bytes, 16 of 570, 4 of 1518. See profile.lua.
--
-- A sequence is as long as Pktgen-DPDK allows (16 slots), so the mix is 7 : 4 : 1 in twelve of them, in the order in which
-- stoq-pktgen sends it.
package.path = package.path .. ";?.lua"
local profile = require("profile")

local port = "0"
local slot = 0
pktgen.screen("off")
profile.address(port)
for _, run in ipairs({ { 7, 64 }, { 4, 570 }, { 1, 1518 } }) do
	for _ = 1, run[1] do
		pktgen.seqTable(slot, port, profile.frame(run[2]))
		slot = slot + 1
	end
end
pktgen.set(port, "seq_cnt", slot)
profile.run(port, "imix")
