package agent

// RealMachine is the machine of an agent that is given none.
var RealMachine Machine = realMachine{}
